"""``python -m mbe_plugin.env`` prints what a bug report needs."""

from mbe_plugin.env import table

print(table())
