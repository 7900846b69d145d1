"""splitmix64 once more, a number at a time: what clustering draws its starts with."""

WORD = (1 << 64) - 1


def uniform(item, seed, depth, round_):
    """A number in (0, 1)."""

    def mixed(z):
        z &= WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        return z ^ (z >> 31)

    key = 0
    for part in (seed, depth, round_):
        key = mixed(key + 0x9E3779B97F4A7C15 * (part + 1))
    return ((mixed(item * 0x9E3779B97F4A7C15 + key) >> 11) + 0.5) * 2.0**-53
