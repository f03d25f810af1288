"""What two techniques share; it knows no technique."""
