// An answer that contains everything that the page can display.

export const SAMPLE = `Facets are cut at **exact angles**, so that light entering the crown is *reflected twice* and leaves where it came in. Below the critical angle, \`asin(1 / n)\`, it leaks out at the back.

### The order of work

1. **Sawing.** The rough is divided along its grain.
2. **Preforming.** A girdle is ground:
   - the outline first,
   - then its height.
3. **Faceting**, from the pavilion upwards.

The critical angle for a few stones:

| Stone | Index | Angle |
|:------|------:|------:|
| Quartz | 1.54 | 40.5° |
| Sapphire | 1.77 | 34.4° |
| Diamond | 2.42 | 24.4° |

\`\`\`python
from math import asin, degrees

def critical_angle(index: float) -> float:
    """The angle in degrees below which light leaks."""
    return degrees(asin(1 / index))  # about 40.5 for quartz, and much less for a diamond
\`\`\`

> A stone has no beauty but what light finds in it.

More on [refraction](https://en.wikipedia.org/wiki/Snell%27s_law).`;
