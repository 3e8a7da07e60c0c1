"""Claims about speed and learning, each as a script that measures ours beside the other thing: see README.md."""
