import sys

from imsbridge.cli import main

sys.exit(main())
