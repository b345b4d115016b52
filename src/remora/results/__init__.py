"""What a study leaves on disk: the schema of its files, how they are written and read, and the summary of them."""
