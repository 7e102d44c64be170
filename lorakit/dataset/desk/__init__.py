"""The dataset desk: looks at pictures and captions before they are trained on, and rewrites captions with an undo."""
