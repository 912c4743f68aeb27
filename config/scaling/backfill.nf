// nextflow run backfill.nf --dir /data/dicom --out /data/export
// A backfill in batches: plan, run each batch, merge. `exporter batch run` ends with 0 when its batch is complete.
params.dir = null
params.out = null

process plan {
    output: stdout
    script:
    """
    exporter batch plan '${params.dir}' --output '${params.out}' >&2
    python3 -c 'import json, sys; print(*(one["number"] for one in json.load(open(sys.argv[1]))["batches"]), sep="\\n")' \
        '${params.out}/batches/plan.json'
    """
}

process run {
    cpus 2
    errorStrategy 'retry'
    maxRetries 3
    input: val number
    output: val number
    script:
    "exporter batch run '${params.out}' ${number} --workers ${task.cpus}"
}

// 3: merged, and some instances failed; `exporter failures` lists them.
process merge {
    input: val numbers
    script:
    "exporter batch merge '${params.out}' || [ \$? = 3 ]"
}

workflow {
    plan | splitText | map { it.trim() } | filter { it } | run | collect | merge
}
