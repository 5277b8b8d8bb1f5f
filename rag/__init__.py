"""What a persona may look up: documents in, passages with their pages out."""
