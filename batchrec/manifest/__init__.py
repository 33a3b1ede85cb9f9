"""The list of images: which files, which columns, which rows make a shard."""
