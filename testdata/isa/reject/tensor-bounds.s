; The last PE reads 16 elements beyond the tensor.
; expect: tensor-bounds in launch 0 (kernel copy), instruction 0 `ld b0+:v2, v0` of FI.load on PE [0, 0, 0, 3]: elements 64 to 79 of the codes of tensor r0, which has room for 64 [/layer/Copy]
object "tensor-bounds" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x4 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 64 x 2
  view v0 f32 global r0 k4 offset 16 (1:0, 1:0, 1:0, 1:0, 16:1<80) p3:d4+16
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 16:1<64) p3:d4+16
  view v2 f32 local k4 offset 0 (1:16, 1:16, 1:16, 1:16, 16:1)
  code:
    ld b0+:v2, v0
    st b0-:v2, v1
    halt
}

entry e0 "main" {
  input "x" f32 (64) hbm:0
  output "y" f32 (64) hbm:256
  launch #0 k0 (hbm:0, hbm:256) o0
  code:
    launch #0
    halt
}

weights 0 {
}
