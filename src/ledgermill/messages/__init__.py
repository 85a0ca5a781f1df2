"""What may arrive or leave: shapes, checked strictly."""
