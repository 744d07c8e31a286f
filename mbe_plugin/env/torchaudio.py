"""What a program may have to repair in its environment before it imports a host.

Nothing here runs by itself, and ``import mbe_plugin`` does not import it: a library that changes
other people's modules without being asked is worse than the fault.
"""

from __future__ import annotations

import importlib
import sys


def hide_broken_torchaudio() -> str | None:
    """Make a torchaudio that is installed but cannot be loaded count as not installed.

    SpikingJelly 2.0 requires torchaudio, whose newest release is built for another CUDA than the newest
    torch. Its import then raises OSError, and so does importing any of transformers' model files, which load
    torchaudio wherever it is installed. Nothing that this package does needs it. Call this before
    the first import of transformers, in this process; nothing on disk changes.

    Returns the one-line reason where torchaudio was hidden (and prints it to stderr), None where it
    works or is absent.
    """
    if sys.modules.get("torchaudio", "") is None:
        return None  # hidden already, and said so
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        if error.name == "torchaudio":
            return None
        fault: Exception = error
    except (ImportError, OSError, RuntimeError) as error:
        fault = error
    else:
        return None
    for name in [name for name in sys.modules if name.startswith("torchaudio.")]:
        del sys.modules[name]
    # None makes `import torchaudio` raise ModuleNotFoundError and importlib.util.find_spec return None
    sys.modules["torchaudio"] = None  # type: ignore[assignment]
    reason = f"torchaudio is installed but does not load beside this torch, so it is hidden: {fault}"
    print(reason, file=sys.stderr)
    return reason
