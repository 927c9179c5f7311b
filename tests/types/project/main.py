"""An application whose own packages have the names of levelq's folders."""

import core
import levelq_core
import producer
import worker


def main() -> None:
    print(core.NAME)
    print(levelq_core.__file__)
    assert producer.settings().namespace == "levelq" and worker.run.__module__ == "worker"


if __name__ == "__main__":
    main()
