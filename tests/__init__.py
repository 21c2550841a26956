"""The tests of fastxfer; they mirror the source tree."""
