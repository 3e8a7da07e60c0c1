"""A real Kubernetes for tests: `bed.K8sBed`, and `python -m tests.testbed.k8s up DIR` by hand.

Nothing is imported here: `build` runs before there is a virtual environment.
"""
