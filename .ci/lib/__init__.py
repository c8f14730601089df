"""What the checks in .ci share. Nothing here is a check of its own."""
