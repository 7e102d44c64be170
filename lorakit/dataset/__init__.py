"""What a run is trained on: folders and dataset files, captions, sizes, buckets."""
