"""The scripts that Redis runs for a producer, one file each: what they take and give stands at their top."""
