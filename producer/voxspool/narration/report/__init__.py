"""What is known of each segment: the data, the page that shows it, and the check by transcription."""
