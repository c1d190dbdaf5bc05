"""Self-supervised objectives: what is masked, what is predicted; k-means targets and their quality."""
