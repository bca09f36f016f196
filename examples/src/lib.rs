//! Small programs on the mesh, one idea each.
