"""Who can speak: persona definitions, base models, adapters and the registry. Imports nothing else of ours."""
