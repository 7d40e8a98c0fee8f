"""`python -m minigrad` prints what this machine has, what works on it, and what to install."""

from minigrad.tools.info import main

if __name__ == "__main__":
    raise SystemExit(main())
