"""Files that appear whole, files that others may have written, and folders of one user alone."""
