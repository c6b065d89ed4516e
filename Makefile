# What is not npm's: the image, and what is made of it.
IMAGE ?=

.PHONY: image image-test

# With docker, or with buildah where no docker daemon answers.
image:
	bash scripts/image.sh $(IMAGE)

# Builds it without a registry of images and runs it in the guest as the DaemonSet has it.
image-test:
	bash scripts/image-test.sh
