"""GPUs: which there are and whether they are well, what a container needs to use one (CDI), and whose each is."""
