"""Container images: what there are, how they are built and checked, and which bytes a name stands for."""
