"""``python -m mbe_plugin``: see mbe_plugin.command."""

import os
import sys

from mbe_plugin.command import main

if not sys.stderr.isatty():
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars, too, which it reads once
sys.exit(main())
