# dnachunker on GPUs (the host has NVIDIA's container toolkit) or on a CPU, for any user id.
#   docker build -t dnachunker .
#   docker run --rm --gpus all --user "$(id -u)" --volume "$PWD:/work" --workdir /work dnachunker dnachunker demo
# The wheel of torch brings CUDA 13, and Triton compiles the kernels with gcc, so the image needs no CUDA toolkit.
#   docker build -t dnachunker --build-arg EXTRA=cuda .   # also flash-attn, mamba-ssm, causal-conv1d: compiles for hours
ARG BASE=ubuntu:24.04
FROM ${BASE}
# python3-dev and gcc: Triton compiles the code that starts a kernel; openssh-client: `launch --on hosts`
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev openssh-client python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/dnachunker
ENV PATH=/opt/dnachunker/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# dependencies come before sources: this layer is built again only when one of the two files changes
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*project["dependencies"], *project["optional-dependencies"]["s3"], sep="\n")' > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

# the extra is compiled with the toolkit of torch's own CUDA release, which is removed in the same layer
ARG EXTRA=
RUN if [ "$EXTRA" = cuda ]; then \
        apt-get update && apt-get install -y --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/* \
        && pip install --target /opt/toolkit 'cuda-toolkit[cccl,cublas,cudart,cusolver,cusparse,nvcc,nvrtc]==13.0.*' \
        && pip install wheel packaging ninja && export CUDA_HOME=/opt/toolkit/nvidia/cu13 \
        && ln -s lib "$CUDA_HOME/lib64" && for library in "$CUDA_HOME"/lib/*.so.*; do ln -sf "$library" "${library%.so.*}.so"; done \
        && python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
            print(*project["optional-dependencies"]["cuda"], sep="\n")' > requirements.txt \
        && pip install --no-build-isolation --constraint constraints.txt --requirement requirements.txt \
        && rm -r /opt/toolkit && apt-get purge -y --autoremove g++ git; \
    fi

COPY . .
# HOME can be written by every user id: `docker run --user` and clusters that choose an id keep their caches there
RUN pip install --no-deps . && rm -r /src/* && useradd --uid 1001 dnachunker \
    && mkdir /home/dnachunker && chmod 1777 /home/dnachunker
ENV HOME=/home/dnachunker PYTHONUNBUFFERED=1
USER 1001
WORKDIR /home/dnachunker
CMD ["dnachunker", "--help"]
