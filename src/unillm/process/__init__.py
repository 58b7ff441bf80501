# SPDX-License-Identifier: Apache-2.0

"""An engine in a process of another interpreter, behind the `Engine` contract.

The two processes share MessagePack frames over two socket pairs and nothing else, so
each may have packages that the other one cannot import. `engine` and `backend` are this
program's side, `host` is the other one (``python -m unillm.process``), `messages` is
what they say, and `child` starts, watches and ends a process.

Private to the core.
"""
