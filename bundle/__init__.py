"""What an exported classifier is: its files, its preprocessing and the store that holds its versions."""
