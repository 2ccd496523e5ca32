; One PE comes to the barrier once, the other twice.
; expect: not-uniform in launch 0 (kernel k), instruction 1 `bar cast=all` of CP on PE [0, 0, 0, 1]: PE [0, 0, 0, 0] of the group ends without it [/layer/Node]
object "bar-in-uneven-loop" target "mtia-300" hbm 1024 sram 0

origin o0 "/layer/Node" "Node"

kernel k0 "k" grid 1x1x1x2 {
  tensor r0 out bytes 256 planes 0 256 256
  buffer b0 "x" local 128 x 2
  buffer b1 "y" local 256 x 1
  buffer b2 "acc" bank 128 x 1
  view v0 f32 local k4 offset 0 (1:32, 1:32, 1:32, 1:32, 32:1)
  view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 32:1<64) p3:d4+32
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 f32 local k4 offset 0 (1:16, 1:16, 1:16, 1:16, 16:1)
  trip t0 1 max 2 p3*1
  constant c0 0x0
  code:
    loop t0, l0, stages=1
      bar cast=all
    end
    fill b0+:v0, c0
    st b0-:v0, v1
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
