"""The version of Kompilo, for the package and for what it writes into artifacts."""

VERSION = "0.1.0"
