"""The scripts that Redis runs for a producer, one file each; the head of a file lists its arguments and its reply."""
