"""The drill: a tiny run is killed again and again at chosen instants, and must end as if nothing had happened."""
