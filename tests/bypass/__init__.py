"""The ways out, tried. A package, so that its service lives for all of its modules and no longer."""
