"""Reads run directories, and nothing else: tables and curves of what a run found."""
