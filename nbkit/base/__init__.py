"""What two techniques share: state, results, batches, gradients. It knows no technique."""
