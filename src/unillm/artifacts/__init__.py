# SPDX-License-Identifier: Apache-2.0

"""Prepared engines: checkpoints that were converted or compiled once, for many loads.

`key` names an engine by everything that it depends on, `store` keeps engines, `plan`
says what a build would change and cost, and `upkeep` verifies and deletes. Nothing here
needs an engine or a device.

Private to the core.
"""
