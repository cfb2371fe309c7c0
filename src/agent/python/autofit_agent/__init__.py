"""The part of autofit that runs inside the script's process.

Standard library only, and what the script itself imported; Python 3.8 and later.  Start reading at
`session.py`, whose head states the rules, then `bootstrap.py`, which puts the parts together.
"""

VERSION = 1
