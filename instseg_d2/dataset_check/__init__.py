"""What is wrong with a data set in COCO's format, and what is in it."""
