#!/usr/bin/env bash
# Callers in four languages and servers in two under one mesh file; see README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec cargo xtask polyglot
