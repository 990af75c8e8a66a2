"""What a log line looks like and where it goes. Nothing here decides what is logged."""
