; The post says that loads are over, and a store was before it.
; expect: race in launch 0 (kernel k), instruction 4 `ld b0+:v0, v2` of FI.load on PE [0, 0, 0, 0]: tensor r0: byte 128 is written by PE number 1, and nothing orders both [/layer/Node]
object "post-of-other-queue" target "mtia-300" hbm 1024 sram 0

origin o0 "/layer/Node" "Node"

kernel k0 "k" grid 1x1x1x2 {
  tensor r0 inout bytes 256 planes 0 256 256
  buffer b0 "x" local 128 x 2
  view v0 f32 local k4 offset 0 (1:32, 1:32, 1:32, 1:32, 32:1)
  view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 32:1<64) p3:d4+32
  view v2 f32 global r0 k4 offset 32 (1:0, 1:0, 1:0, 1:0, 32:1<64) p3:d4-32
  constant c0 0x0
  code:
    fill b0+:v0, c0
    st b0-:v0, v1
    post e0, fi.load
    wait e0, fi.load, count=2
    ld b0+:v0, v2
    pop b0, n=1
    halt
}

entry e0 "main" {
  output "y" f32 (64) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
