# SPDX-License-Identifier: Apache-2.0

"""An HTTP server over one `Generator`, compatible with OpenAI's API.

Stands on public names and `protocol`. Needs the extra ``[server]``.
"""
