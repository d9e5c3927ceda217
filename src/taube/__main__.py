"""`python -m taube` is the same as the command `taube`."""

from taube.cli import main

raise SystemExit(main())
