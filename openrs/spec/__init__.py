"""What a user writes: experiments and clusters, checked, resolved and hashed."""
