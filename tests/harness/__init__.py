"""What the tests are made with: compiled programs, exact numbers, precision, meshes. No laws."""
