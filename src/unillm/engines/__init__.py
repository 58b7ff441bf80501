# SPDX-License-Identifier: Apache-2.0

"""The contracts between the core and its engines: values and abstract classes alone.

Private to the core; `unillm.backend` exports the names.
"""
