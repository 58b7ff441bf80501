# SPDX-License-Identifier: Apache-2.0

"""What tests of backends and of applications need. Light to import: no torch."""
