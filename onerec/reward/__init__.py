"""What a generated item is worth: rules about form and business, and what people really did."""
