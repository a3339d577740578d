"""``python -m fedtl.nvflare JOB ACTIVE PASSIVE...`` writes a session job."""

from __future__ import annotations

import argparse

from fedtl.nvflare._job import write_job

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fedtl.nvflare", description=__doc__)
    parser.add_argument("job", help="folder to be written; its last part names the job")
    parser.add_argument("active", help="site of the party that asks")
    parser.add_argument("passive", nargs="+", help="sites of the parties that answer")
    options = parser.parse_args()
    print(write_job(options.job, options.active, options.passive))
