"""Whether an answer equals the gold one.

Where the answer stands: `answers`; math-verify's equality: `grade`; a stricter one: `strict`; the killable processes
that compute them: `pool`, `worker`.
"""
