"""What it is trained on: folders, captions and buckets."""
