"""The chat page: talks to the gateway over HTTP only, and imports nothing else of ours."""
